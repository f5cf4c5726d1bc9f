#include "export/sidecar.h"

#include <algorithm>
#include <vector>

#include "base/file.h"

namespace vernier::exporting {
namespace {

// Model Optimizer's list of what it does not copy, less generation_config.json and
// tokenizer_config.json: it writes these two itself, from the same content.
constexpr std::string_view kWritten[] = {
    "config.json",          "hf_quant_config.json", "quant_config.json", "quantization_config.json",
    "quantize_config.json", "recipe.yaml",          "recipe.yml",        "vernier.json",
};
constexpr std::string_view kWeights[] = {
    ".safetensors", ".safetensors.index.json",
    ".bin",         ".bin.index.json",
    ".ckpt",        ".gguf",
    ".h5",          ".msgpack",
    ".npy",         ".npz",
    ".onnx",        ".pb",
    ".pt",          ".pth",
};

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

}  // namespace

bool is_sidecar(std::string_view file_name) {
  const auto is_same = [&](std::string_view name) { return name == file_name; };
  const auto is_end = [&](std::string_view end) { return ends_with(file_name, end); };
  return std::none_of(std::begin(kWritten), std::end(kWritten), is_same) &&
         std::none_of(std::begin(kWeights), std::end(kWeights), is_end);
}

void copy_sidecars(const std::filesystem::path& source, const std::filesystem::path& target) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(source)) {
    // A Hugging Face cache holds links to its files: what counts is where they lead.
    if (entry.is_regular_file() && is_sidecar(entry.path().filename().string())) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  for (const auto& file : files) write_file(target / file.filename(), read_file(file));
}

}  // namespace vernier::exporting
