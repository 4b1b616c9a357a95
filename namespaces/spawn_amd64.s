#include "textflag.h"

// Offsets of op and shared in program.go.
#define OP_RET    56
#define OP_FLAGS  64
#define OP_MASK   72
#define OP_STORE0 80
#define OP_STORE1 88
#define OP_STORE2 96
#define OP_SIZE   104
#define SH_FAILED 0
#define SH_ERRNO  8
#define SH_PID    16

#define SYS_clone      56
#define SYS_exit_group 231

// func spawn(flags, first, end, sh uintptr) uintptr
//
// The kernel preserves every register but AX, CX and R11 (syscall(2), "Return
// values"), so R12 (op), R13 (end) and R15 (shared) live through the calls.
TEXT ·spawn(SB), NOSPLIT|NOFRAME, $0-40
	MOVQ flags+0(FP), DI
	MOVQ first+8(FP), R12
	MOVQ end+16(FP), R13
	MOVQ sh+24(FP), R15
	XORQ SI, SI               // the child keeps our stack pointer and never uses it
	XORQ DX, DX
	XORQ R10, R10
	XORQ R8, R8
	MOVQ $SYS_clone, AX
	SYSCALL
	TESTQ AX, AX
	JZ   next
	MOVQ AX, ret+32(FP)
	RET

next:
	CMPQ R12, R13
	JAE  done
	MOVQ 0(R12), AX
	MOVQ 8(R12), DI
	MOVQ 16(R12), SI
	MOVQ 24(R12), DX
	MOVQ 32(R12), R10
	MOVQ 40(R12), R8
	MOVQ 48(R12), R9
	SYSCALL
	CMPQ AX, $0xfffffffffffff001
	JAE  failed

	MOVQ OP_FLAGS(R12), BX
	TESTQ $2, BX              // opClone
	JNZ  cloned
	MOVQ AX, OP_RET(R12)
	MOVQ OP_STORE0(R12), BX   // hand the result to the calls that want it
	TESTQ BX, BX
	JZ   advance
	MOVL AX, (BX)
	MOVQ OP_STORE1(R12), BX
	TESTQ BX, BX
	JZ   advance
	MOVL AX, (BX)
	MOVQ OP_STORE2(R12), BX
	TESTQ BX, BX
	JZ   advance
	MOVL AX, (BX)

advance:
	ADDQ $OP_SIZE, R12
	JMP  next

cloned:
	TESTQ AX, AX
	JZ   advance              // the new process goes on
	MOVQ AX, SH_PID(R15)      // the old one has done its part
	XORQ DI, DI
	JMP  exit

failed:
	MOVQ AX, OP_RET(R12)
	MOVQ OP_FLAGS(R12), BX
	TESTQ $1, BX              // opIgnore
	JNZ  advance
	NEGQ AX
	CMPQ AX, $64
	JAE  report
	MOVQ OP_MASK(R12), BX
	BTQ  AX, BX
	JCS  advance              // an error that counts as success
	JMP  report

done:
	MOVQ (OP_RET-OP_SIZE)(R12), AX // nothing left to execute: report the last call
	NEGQ AX

report:
	MOVQ AX, SH_ERRNO(R15)
	MOVQ R12, SH_FAILED(R15)
	MOVQ $1, DI

exit:
	MOVQ $SYS_exit_group, AX
	SYSCALL
	INT  $3
