"""The simulator of selection: the shipped policy code and its rivals in one virtual world.

world, faults     the truth: who answers how fast when, and what breaks; the same for every contender
engine, network   the clock and the queue of events; what a contender's packets meet: connections, load, faults
caller, rules     the baselines: a plain client, and the rules by which it chooses; the oracle
smart, probing    the real `Router` and `Exchange` of smartroute, carried out without a wire
journal, watching what became of each request; what is counted of a router from outside
scenarios         the cells: which world, for how long, what breaks when
matches, runs     one cell with one seed; all of them, on every core
overrides         smartroute with other values for its constants
figures, report   the figures to reach, and the tables; `ablations`: what each mechanism is worth
plots             the pictures of the docs
"""
