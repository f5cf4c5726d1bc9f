// Groups of processes over MPI, and the check that every call of MPI goes through.
#pragma once

#include <mpi.h>

#include <memory>

#include "comm/communicator.h"

namespace vernier::comm {

// Throws CommFault with the call and MPI's own words unless `status` is success.
void check_mpi(int status, const char* call);
#define VERNIER_MPI_CALL(call) ::vernier::comm::check_mpi((call), #call)

// Takes `group`, and frees it at the end, before which MPI must not be finalized.
std::unique_ptr<Communicator> mpi_communicator(MPI_Comm group);

}  // namespace vernier::comm
