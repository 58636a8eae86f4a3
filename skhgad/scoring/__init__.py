"""From features to scores, maps, verdicts and reasons."""
