"""What a prompt costs without the model: MQTT and the daemon, compared with a plain echo."""
