# The tag of the exceptions that longjmp throws; the C library expects the program to have it.
	.globl	__c_longjmp
	.tagtype	__c_longjmp i32
__c_longjmp:
