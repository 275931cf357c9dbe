"""THE OTHER WORLD: virtual clock, lossy network, lying disk, nemesis, history checkers."""
