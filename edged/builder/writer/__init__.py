"""Writers: adapters that are trained, compared with full precision, and measured."""
