"""The replica side of a mirror: batches of cells come from afar, and the tree follows them.

replica     what a follower drives: begin, missing, put, publish
batch       the values in between, and the rules that cells from afar must keep
intake      from a batch to changes: what is new, what is re-bound, what is parked
assembly    files being put together, block by block
donors      where else in the mirror a block may be found
staging     the folder of things on their way in
plan        pure: how a tree follows changed cells, in legal steps (steps, goal, placement, treeview)
indextree   the present tree, as the index knows it
planlog     the plan on disk, so that a killed one is finished
publish     complete, journal, carry out, commit
executor    one step after the other, each safe to repeat (ground: what it stands on)
    amend       what becomes of a plan whose step is impossible
    reach       directories by inode id, also in the middle of a plan
attributes  modes, owners, times (ownership: whose files they become)
conflict    what users changed is kept beside
survey      what users took away comes back with a snapshot
verify      is the copy what the index says? (comparison: one place of it)
root        is the tree still the tree?
sweep       what a snapshot did not name goes
"""
