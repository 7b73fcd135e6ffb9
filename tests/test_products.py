"""The products that a network consists of."""

import subprocess
import sys

from vaefill.experiments import products


def test_the_products_are_those_of_a_network():
    assert products.network_shapes(5, (7, 3), 2) == [(5, 7), (7, 3), (3, 2)]
    found = products.numpy_products(((5, 7), (7, 3)), rows=4)()
    assert [product.shape for product in found] == [(4, 7), (4, 3)]


def test_beside_numpy_there_is_no_tensorflow():
    """What the process of `numpy_alone` imports: this module, and that of the command."""
    imports = "import sys, vaefill.experiments.products, vaefill.cli"
    code = f"{imports}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_in_a_process_of_its_own_as_often_as_wanted():
    with products.numpy_alone([(5, 7), (7, 3)], rows=4) as repeat:
        assert [repeat(0), repeat(3)] == [0, 3]
