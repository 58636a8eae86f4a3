"""From images and vectors to features."""
