"""The user-mode network: a NAT that needs no rights on the host.

Two layers. The protocol core (`core.py` and a file for each protocol) opens no socket and knows no thread: frames
and time go in, frames and requests to the outside (`outside.py`) come out. The adapter (`backend.py` and the
`host_*` files) fulfils the requests with the host's sockets on an event loop.
"""
