"""What happened to a task or a run, by the ledger; and what follows from it: stories, forks, replays."""
