# vernier_embed(OUT FUNCTION files...): links files into the program.
# Writes an assembler file that includes the bytes and a table, and puts both into the list OUT. The
# table is returned by `std::span<const vernier::EmbeddedFile> vernier::FUNCTION()`.
function(vernier_embed out function)
  set(assembly "    .section .rodata\n")
  set(declarations "")
  set(rows "")
  set(index 0)
  foreach(file IN LISTS ARGN)
    set(symbol "vernier_${function}_${index}")
    file(RELATIVE_PATH name ${CMAKE_SOURCE_DIR} ${file})
    string(APPEND assembly
      "    .balign 16\n    .global ${symbol}\n${symbol}:\n    .incbin \"${file}\"\n"
      "    .global ${symbol}_end\n${symbol}_end:\n    .byte 0\n")
    string(APPEND declarations "extern const char ${symbol}[], ${symbol}_end[];\n")
    string(APPEND rows
      "      {\"${name}\", {${symbol}, static_cast<size_t>(${symbol}_end - ${symbol})}},\n")
    math(EXPR index "${index} + 1")
  endforeach()
  string(APPEND assembly "    .section .note.GNU-stack,\"\",%progbits\n")
  set(stem ${CMAKE_CURRENT_BINARY_DIR}/${function})
  file(CONFIGURE OUTPUT ${stem}.S CONTENT "${assembly}" @ONLY)
  file(CONFIGURE OUTPUT ${stem}.cc @ONLY CONTENT
"#include \"base/embedded.h\"
extern \"C\" {
${declarations}}
namespace vernier {
std::span<const EmbeddedFile> ${function}();
std::span<const EmbeddedFile> ${function}() {
  static const EmbeddedFile files[] = {
${rows}  };
  return files;
}
}  // namespace vernier
")
  set_source_files_properties(${stem}.S PROPERTIES OBJECT_DEPENDS "${ARGN}")
  set(${out} ${stem}.S ${stem}.cc PARENT_SCOPE)
endfunction()
