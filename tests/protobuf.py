"""A writer of Protocol Buffers that can write what no library writes."""


def varint(value: int, num_padding: int = 0) -> bytes:
    """Encode a number, in so many bytes more than it needs."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F)
    groups += [0] * num_padding
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def field(number: int, value: bytes, *, tag_padding: int = 0, size_padding: int = 0) -> bytes:
    """Encode a field with a length."""
    return varint(number << 3 | 2, tag_padding) + varint(len(value), size_padding) + value


def entry(key: str, value: str) -> bytes:
    """Encode an entry of a tensor's external data."""
    return field(13, field(1, key.encode()) + field(2, value.encode()))


def model(tensor: bytes) -> bytes:
    """Encode a model with one initializer."""
    return field(7, field(5, tensor))
