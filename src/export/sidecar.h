// The files beside the weights: tokenizer, chat template, remote code, licence.
#pragma once

#include <filesystem>
#include <string_view>

namespace vernier::exporting {

// Whether a file at the top of a checkpoint directory is carried over as it is. Not: weights in any
// container, and the descriptions that the writer makes itself.
bool is_sidecar(std::string_view file_name);

// Copies every sidecar file of `source` to `target`, byte for byte, and syncs it. Folders stay
// behind.
void copy_sidecars(const std::filesystem::path& source, const std::filesystem::path& target);

}  // namespace vernier::exporting
