"""Network backends: where the frames of a guest's network interface go to and come from."""
