"""Pure modules and edges: the messages of Phonic's API, and the clients of REST and of the live feeds."""
