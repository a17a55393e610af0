/* The tag of the exception that the C library's longjmp throws, which that library leaves to
 * whoever links a program. Its value is the address of what is thrown. */
__asm__(".globl __c_longjmp\n"
        ".tagtype __c_longjmp i32\n"
        "__c_longjmp:\n");
