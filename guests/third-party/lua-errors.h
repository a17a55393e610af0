/* Put before every source of Lua: errors end the program, so that it needs neither longjmp nor
 * exceptions. Nothing may be caught then, and no coroutine may yield. */
#ifndef LIMOSA_LUA_ERRORS_H
#define LIMOSA_LUA_ERRORS_H

#include <stdlib.h>

/* <setjmp.h> refuses to be included where there are no exceptions. */
#define _SETJMP_H

#define LUAI_THROW(L, c) abort()
#define LUAI_TRY(L, c, a) { a }
#define luai_jmpbuf int

#endif
