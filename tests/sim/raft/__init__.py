"""The Raft engine under simulation: real members, journals and snapshots; virtual time, network and disks."""
