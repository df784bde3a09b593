"""Address dispatch to devices, interrupt lines and message-signalled interrupts."""
