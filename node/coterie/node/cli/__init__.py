"""The command line `coterie`. Commands are imported when they are called, gRPC only when needed."""
