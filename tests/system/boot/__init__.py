"""edged on a booted Debian: installed as documented, run by systemd."""
