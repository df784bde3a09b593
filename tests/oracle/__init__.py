"""Independent judges of x86-64 semantics: the host CPU and unicorn, and the cases to put to them."""
