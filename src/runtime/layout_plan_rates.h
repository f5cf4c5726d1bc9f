// What machines do in a second, for predictions of how long a job takes on many ranks: one table,
// to be fitted again when there are new measurements.
#pragma once

#include <cstdint>
#include <string_view>

#include "io/json_fwd.h"

namespace vernier::runtime {

// Of NVIDIA H100s. What is fitted was measured on one of them (docs/results.md); what is assumed
// says so.
struct MachineRates {
  // A forward pass of a device, multiply and add counted as two, all that is not a product
  // included. 22 layers of Super (10 Mamba, 10 MoE, 2 attention) read 2.90e9 weights a token: 2 x
  // 262,144 tokens x 2.90e9 = 1.52e15 in 6.2 s. Nano-30B reads 2.88e9: 1.51e15 in 5.4 s would be
  // 279e12.
  double forward_flop_per_s = 245e12;
  // Weights from the host's memory to a device, by 8 readers.
  double load_bytes_per_s = 51e9;
  // BF16 weights that a device's rank packs, downloads or copies: 61.9 GB of the 22 layers in
  // 1.2 + 2.3 + 0.9 s. Nano-30B: 63.2 GB in 4.0 s.
  double encode_bytes_per_s = 14e9;
  // Output that a machine writes, in memory-backed files: 19.9 GB of the 22 layers in 5.0 s.
  // Nano-30B: 19.4 GB in 9.4 s, half of it.
  double write_bytes_per_s = 4.0e9;
  // Files that the first rank reserves before all others begin: the 19.9 GB in 2.5 s.
  double reserve_bytes_per_s = 8.0e9;
  // What goes over the wire of a device while ranks of one machine add up: two H100s, 256 MiB, as
  // 16,384 tokens of Super have.
  double sum_bytes_per_s = 298e9;
  // While they exchange rows, or a stage hands over to the next. Two H100s reach 155e9 with 16 MiB
  // and 264e9 with 256; an exchange of Super's is 128.
  double exchange_bytes_per_s = 200e9;
  // A device's part of what machines send one another, whatever for. Assumed.
  double between_machines_bytes_per_s = 40e9;
  // The least that any call of a group takes. Assumed.
  double collective_s = 20e-6;
  // Devices open, tables are built, files closed: Nano-30B, 5.1 s outside of phases, 0.4 s to open.
  double start_s = 5.5;

  int64_t devices_per_machine = 8;
};

// The defaults with those replaced that an object of JSON names as above, devices_per_machine
// excepted. Throws InvalidArgument naming `origin` for any other key, and for a value that is not a
// positive number.
MachineRates read_rates(const io::Json& json, std::string_view origin);

io::Json to_json(const MachineRates& rates);

}  // namespace vernier::runtime
