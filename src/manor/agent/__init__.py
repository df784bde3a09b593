"""The agent that runs inside a guest. It is one file of the standard library alone, so that it can be copied there."""
