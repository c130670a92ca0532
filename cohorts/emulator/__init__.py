"""A made-up hospital of any size in the layout of MC-MED: `phewas.cohorts.emulator.mcmed` writes it."""
