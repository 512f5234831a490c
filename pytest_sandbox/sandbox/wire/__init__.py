"""What goes over the sockets: frames, what is believed of them, and plain values."""
