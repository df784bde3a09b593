"""Virtio devices: queues, device state machine, transports, device types."""
