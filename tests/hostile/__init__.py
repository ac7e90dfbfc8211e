"""Messages and bundles that are made to hurt, played against a daemon and a broker."""
