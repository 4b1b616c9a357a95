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

#define SYS_clone      220
#define SYS_exit_group 94

// func spawn(flags, first, end, sh uintptr) uintptr
//
// The kernel preserves every register but R0, so R19 (op), R20 (end) and R21
// (shared) live through the calls. spawn_amd64.s has the same steps.
TEXT ·spawn(SB), NOSPLIT|NOFRAME, $0-40
	MOVD flags+0(FP), R0
	MOVD first+8(FP), R19
	MOVD end+16(FP), R20
	MOVD sh+24(FP), R21
	MOVD $0, R1               // the child keeps our stack pointer and never uses it
	MOVD $0, R2
	MOVD $0, R3
	MOVD $0, R4
	MOVD $SYS_clone, R8
	SVC
	CBZ  R0, next
	MOVD R0, ret+32(FP)
	RET

next:
	CMP  R20, R19
	BHS  done
	MOVD 0(R19), R8
	MOVD 8(R19), R0
	MOVD 16(R19), R1
	MOVD 24(R19), R2
	MOVD 32(R19), R3
	MOVD 40(R19), R4
	MOVD 48(R19), R5
	SVC
	CMN  $4095, R0
	BCS  failed               // -4095 … -1

	MOVD OP_FLAGS(R19), R22
	TBNZ $1, R22, cloned      // opClone
	MOVD R0, OP_RET(R19)
	MOVD OP_STORE0(R19), R22  // hand the result to the calls that want it
	CBZ  R22, advance
	MOVW R0, (R22)
	MOVD OP_STORE1(R19), R22
	CBZ  R22, advance
	MOVW R0, (R22)
	MOVD OP_STORE2(R19), R22
	CBZ  R22, advance
	MOVW R0, (R22)

advance:
	ADD  $OP_SIZE, R19
	B    next

cloned:
	CBZ  R0, advance          // the new process goes on
	MOVD R0, SH_PID(R21)      // the old one has done its part
	MOVD $0, R0
	B    exit

failed:
	MOVD R0, OP_RET(R19)
	MOVD OP_FLAGS(R19), R22
	TBNZ $0, R22, advance     // opIgnore
	NEG  R0, R0
	CMP  $64, R0
	BHS  report
	MOVD OP_MASK(R19), R22
	LSR  R0, R22, R22
	TBNZ $0, R22, advance     // an error that counts as success
	B    report

done:
	MOVD (OP_RET-OP_SIZE)(R19), R0 // nothing left to execute: report the last call
	NEG  R0, R0

report:
	MOVD R0, SH_ERRNO(R21)
	MOVD R19, SH_FAILED(R21)
	MOVD $1, R0

exit:
	MOVD $SYS_exit_group, R8
	SVC
	BRK
