#include "cli/command.h"

int main(int argc, char** argv) { return vernier::cli::run_program(argc, argv); }
