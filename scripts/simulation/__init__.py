"""The test rig of the simulation: scenarios, checkers, drills, planted bugs, and the batches that run them.

``raykv.sim`` is what users get of the simulated world; what is here tests raykv itself in it and is not shipped.
"""
