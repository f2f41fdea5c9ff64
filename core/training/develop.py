"""What a camera and a file do to a picture: low resolution, blur, motion, dim light, tone, colour cast, noise, grey."""

import cv2
import numpy as np


def develop(random: np.random.Generator, image: np.ndarray, grain: np.ndarray) -> np.ndarray:
    """(S, S, 3) float32 in 0..1 -> uint8. grain: (2 S, 2 S, 4) unit noise."""
    size = len(image)
    image = np.ascontiguousarray(image, np.float32)
    if random.random() < 0.16:
        small = int(size * np.exp(random.uniform(np.log(0.22), np.log(0.8))))
        image = cv2.resize(cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA), (size, size), interpolation=cv2.INTER_LINEAR)
    if random.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), random.uniform(0.2, 1.3))
    if random.random() < 0.07:
        image = cv2.filter2D(image, -1, streak(random))
    dim = random.random() < 0.05
    contrast, brightness = np.exp(random.normal(0, 0.18)), random.normal(0, 0.05)
    ramp = np.linspace(0, 1, 256)[:, None] ** np.exp(random.normal(0, 0.18))
    ramp = ((ramp - 0.5) * contrast + 0.5 + brightness) * (random.uniform(0.3, 0.65) if dim else 1)
    ramp = ramp * (1 + random.normal(0, 0.09 if dim else 0.04, 3))
    table = (np.clip(ramp, 0, 1) * 255).astype(np.uint8)[None]
    pixels = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    if random.random() < 0.05:
        pixels = np.repeat(pixels[..., 1:2], 3, -1)
    toned = cv2.LUT(pixels, table)
    row, column = random.integers(0, size, 2)
    noise = grain[row : row + size, column : column + size]
    amount = (random.uniform(2, 9) if dim else random.exponential(1.6), random.uniform(0, 6) if dim else random.exponential(0.9))
    return np.clip(toned + noise[..., :1] * np.float32(amount[0]) + noise[..., 1:] * np.float32(amount[1]), 0, 255).astype(np.uint8)


def streak(random: np.random.Generator) -> np.ndarray:
    """(K, K) kernel of a shaken camera."""
    reach, angle = int(random.integers(2, 7)), random.random() * np.pi
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    tip = int(reach - reach * np.cos(angle)), int(reach - reach * np.sin(angle))
    cv2.line(kernel, tip, (2 * reach - tip[0], 2 * reach - tip[1]), 1, 1)
    return kernel / kernel.sum()
