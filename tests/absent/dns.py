"""dnspython is absent: paho would import it, 0.3 s, for a lookup that edged does not use."""

raise ImportError("as on a device")
