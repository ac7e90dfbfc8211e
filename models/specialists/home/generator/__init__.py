"""Makes the examples that the home specialist is taught with, and judged by."""
