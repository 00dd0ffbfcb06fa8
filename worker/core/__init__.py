"""The pure core: no I/O, no clock, no log, no event loop. Facts come in, actions go out."""
