"""The protocol's programs as data: numbers, arguments, results, permissions, and the codecs derived from them."""
