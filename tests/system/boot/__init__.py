"""edged on a booted Debian: installed by its README, run by systemd."""
