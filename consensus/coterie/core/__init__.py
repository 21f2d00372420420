"""The replicated brain: frozen data and pure decisions. No I/O, no clock, no dice."""
