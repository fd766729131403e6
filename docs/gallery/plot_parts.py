"""
Parts of an image
=================

The input of a network is the complete image or a part of it: a patch, a region of interest or a slice. ``parts.ids``
returns the ids of the parts of an image, ``parts.place`` the box of a part, and ``parts.extract`` its voxels.
"""

import tempfile

import neurocnn as nc

folder = tempfile.mkdtemp()
labels = nc.make_caps(folder, n_participants=2, preprocessing="t1-volume")
caps = nc.Caps(folder, "t1-volume")
image = caps.read(*labels.loc[0, ["participant_id", "session_id"]])
shape = image.shape[1:]
print(shape)

# %%
# Patches are cubes. Here the patches do not overlap, because the stride equals the size. Remaining voxels at the end of
# an axis do not belong to any patch.
patches = nc.Patch(size=40, stride=40)
boxes = [patches.place(shape, part_id) for part_id in patches.ids(shape)]
nc.plotting.planes(image, at=(60, 70, 50), boxes=boxes, title=f"{len(boxes)} patches of 40×40×40 voxels")

# %%
# Regions have names. The library contains boxes of the hippocampi for this pipeline; you can also use your own boxes or
# masks.
regions = nc.Roi.hippocampi("t1-volume")
boxes = {name: regions.place(shape, part_id) for part_id, name in enumerate(("right", "left"))}
nc.plotting.planes(image, boxes=boxes, title="Both hippocampi, 30×40×30 voxels each")

# %%
# A slice has two spatial axes. The id of a slice is its index along the third axis; the outer slices can be discarded.
slices = nc.Slice(direction=1, discarded_slices=60)
ids = slices.ids(shape)
print(f"{len(ids)} slices with ids from {ids[0]}, each of shape", tuple(slices.extract(image, ids[0]).shape))
boxes = [slices.place(shape, part_id) for part_id in ids[::12]]
nc.plotting.planes(image, boxes=boxes, title="Three of the coronal slices")
