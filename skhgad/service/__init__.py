"""A model at work: a folder that is watched, a server that answers, a log that loses nothing."""
