"""The products that a network consists of."""

from model import products


def test_the_products_are_those_of_a_network():
    assert products.network_shapes(5, (7, 3), 2) == [(5, 7), (7, 3), (3, 2)]
    found = products.numpy_products(((5, 7), (7, 3)), rows=4)()
    assert [product.shape for product in found] == [(4, 7), (4, 3)]


def test_in_a_process_of_its_own_as_often_as_wanted():
    with products.numpy_alone([(5, 7), (7, 3)], rows=4) as repeat:
        assert [repeat(0), repeat(3)] == [0, 3]
