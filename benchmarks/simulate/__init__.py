"""Hours of made-up requests through the daemon's own scheduler and admission."""
