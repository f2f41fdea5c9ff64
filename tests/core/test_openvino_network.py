from tests.core.own_process import assert_openvino_checks_pass


def test_in_a_process_of_its_own() -> None:
    assert_openvino_checks_pass("openvino_checks.py")
