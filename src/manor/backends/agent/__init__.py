"""The host's end of a guest agent."""
