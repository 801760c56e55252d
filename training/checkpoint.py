"""Hugging Face checkpoints of the MLA family, read tensor by tensor: safetensors in F32, BF16, F16 or FP8 128 × 128."""
import json
import os

import numpy as np
import torch

E4M3 = torch.tensor([(-1.0 if byte & 128 else 1.0)
                     * ((byte & 7) * 2.0 ** -9 if byte >> 3 & 15 == 0 else (8 + (byte & 7)) * 2.0 ** ((byte >> 3 & 15) - 10))
                     for byte in range(256)])


class Checkpoint:
    def __init__(self, folder):
        self.folder, self.where = folder, {}
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            self.config = json.load(file)
        index = os.path.join(folder, "model.safetensors.index.json")
        names = ["model.safetensors"]
        if os.path.exists(index):
            with open(index, encoding="utf-8") as file:
                names = sorted(set(json.load(file)["weight_map"].values()))
        self.files = names
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
            for key, entry in header.items():
                if key != "__metadata__":
                    start, end = entry["data_offsets"]
                    self.where[key] = (path, 8 + length + start, end - start, entry["dtype"], entry["shape"])

    def __contains__(self, name):
        return name in self.where

    def bytes_of(self, name):
        path, start, size, dtype, shape = self.where[name]
        return np.memmap(path, dtype=np.uint8, mode="r", offset=start, shape=(size,)), dtype, shape

    def get(self, name, device="cpu"):
        """The tensor as F32 (FP8 with its block scales applied)."""
        raw, dtype, shape = self.bytes_of(name)
        raw = np.array(raw)
        if dtype == "F32":
            return torch.from_numpy(raw.view(np.float32).reshape(shape)).to(device)
        if dtype == "F16":
            return torch.from_numpy(raw.view(np.float16).reshape(shape)).to(device).float()
        if dtype == "BF16":
            wide = raw.view(np.uint16).astype(np.uint32) << 16
            return torch.from_numpy(wide.view(np.float32).reshape(shape)).to(device)
        if dtype != "F8_E4M3":
            raise ValueError("%s: type %s is not supported" % (name, dtype))
        value = E4M3.to(device)[torch.from_numpy(raw).to(device).long()].view(*shape)
        scale = self.get(name.replace(".weight", ".weight_scale_inv"), device)
        scale = scale.repeat_interleave(128, 0)[:shape[0]].repeat_interleave(128, 1)[:, :shape[1]]
        return value * scale
