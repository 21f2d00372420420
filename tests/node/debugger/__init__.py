"""Histories, stories, forks, replays."""
