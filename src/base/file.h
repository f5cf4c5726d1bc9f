// Whole small files: configurations, tokenizers, texts. Tensors are mapped instead (io/).
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace vernier {

// The file's bytes. Throws NotFound when there is no such file, Environment when it cannot be read.
std::string read_file(const std::filesystem::path& path);

// Writes `bytes` and syncs them to the device. Throws Environment.
void write_file(const std::filesystem::path& path, std::string_view bytes);

// Syncs a directory, so that the names in it survive a crash. Throws Environment.
void sync_directory(const std::filesystem::path& path);

// True when `text` is well-formed UTF-8; otherwise false, with the offset of the first bad byte.
bool is_valid_utf8(std::string_view text, size_t* bad_offset = nullptr);

}  // namespace vernier
