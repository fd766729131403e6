"""Values of parts are written to the positions of the parts."""

import nibabel as nib
import numpy as np
import pytest

from neurocnn.data import Patch, Roi, Slice, WholeImage, paint, part_affine


@pytest.mark.parametrize(
    "parts", [WholeImage(), Patch(3, 2), Slice(1, 2), Roi({"a": ((0, 3), (1, 4), (2, 5))})], ids=repr
)
def test_a_voxel_has_the_mean_of_the_parts_that_cover_it(parts):
    shape = (5, 6, 7)
    values = {part_id: float(part_id**2 + 1) for part_id in parts.ids(shape)}
    volume = paint(parts, shape, values)
    for voxel in np.ndindex(shape):
        covering = [
            value
            for part_id, value in values.items()
            if all(
                axis.start <= i < axis.stop
                for axis, i in zip(parts.place(shape, part_id), voxel, strict=True)
            )
        ]
        if covering:
            assert volume[voxel] == pytest.approx(np.mean(covering))
        else:
            assert np.isnan(volume[voxel])


def test_a_part_saved_with_its_affine_has_its_position_in_the_image():
    affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.3, -0.2, 0.1) * 1.5, [5, -6, 7])
    place = Patch(3, 2).place((7, 8, 9), 13)
    moved = part_affine(affine, place)
    for voxel in np.ndindex(3, 3, 3):
        whole = [axis.start + i for axis, i in zip(place, voxel, strict=True)]
        assert np.allclose(nib.affines.apply_affine(moved, voxel), nib.affines.apply_affine(affine, whole))
