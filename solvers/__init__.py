"""Convex optimization of group-structured least squares: quadratics, penalties, algorithms, certificates.

The problem everywhere is::

    min_W  1/(2n) || sum_g A_g W_g - T ||_F^2  +  beta * sum_g R(W_g),      W: (G, d, m)

with G groups of d features and m outputs. It is known to the algorithms through
``H = A^T A / n``, ``c = A^T T / n`` and ``tau = ||T||^2 / n`` alone (`quadratics`). With the weights
confined to polyhedral cones of any number of rows it is solved by `cone_cutting_planes`. Nothing here
knows of networks or scanners; the folder works on its own.
"""
