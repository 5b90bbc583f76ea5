"""matmul: torch's matrix products alone, in f32 and in the shapes of the encoder's layers."""

from common import Line, arguments, read, torch_on_cpu


def main():
    args = arguments(__doc__)
    torch = torch_on_cpu()
    line = Line("matmul", "torch", "GFLOP")
    inputs = read(args, "matmul.json")
    rows = inputs["rows"]
    operands = [(torch.randn(rows, wide), torch.randn(out, wide), count) for wide, out, count in inputs["shapes"]]

    def once(_):
        with torch.inference_mode():
            for x, weight, count in operands:
                for _ in range(count):
                    torch.nn.functional.linear(x, weight)

    line.measure(args, sum(2 * rows * wide * out * count for wide, out, count in inputs["shapes"]) * 1e-9, once)
    line.print()


if __name__ == "__main__":
    main()
