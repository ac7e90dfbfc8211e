"""``edged simulate``: the daemon's own scheduler and admission, on hours of made-up requests."""
