"""What faults are made with: network namespaces, file systems, a library in front of libc, other clocks."""
